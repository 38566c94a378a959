"""The drivers, which call a real cloud or a cloud in memory."""
