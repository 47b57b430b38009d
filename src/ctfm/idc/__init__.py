"""The Imaging Data Commons: selection and download."""
