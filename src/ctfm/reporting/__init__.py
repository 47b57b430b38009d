"""What the report page holds: facts gathered from a results folder, and its charts."""
