"""What is looked at before a training: the task, the settings, the data, and a first batch."""
