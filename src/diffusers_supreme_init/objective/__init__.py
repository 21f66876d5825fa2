"""Pictures and prompts -> the loss that is minimised."""
