"""Reading, checking, orienting, resampling and storing volumes."""
