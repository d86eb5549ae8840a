"""Names that configurations share with chats."""

# What is learned of a conversation: see `llmcore.generate.chat.learned.renderings`.
LEARN = ALL_TURNS, LAST_TURN, MARKED = ("all-turns", "last-turn", "marked")
