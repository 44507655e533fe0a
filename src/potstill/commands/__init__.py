"""The commands, by what they are about; ``potstill.cli`` puts them together. No torch before a command needs it."""
