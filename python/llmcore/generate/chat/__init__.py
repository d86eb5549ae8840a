"""Conversations: chat templates in a sandbox, and messages to token ids."""
