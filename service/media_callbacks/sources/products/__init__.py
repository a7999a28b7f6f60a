"""What the messages of each product mean. Pure; vendor spellings do not leave this folder."""
