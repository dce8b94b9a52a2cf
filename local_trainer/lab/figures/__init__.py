"""The reward lab's pictures, one module a command."""
