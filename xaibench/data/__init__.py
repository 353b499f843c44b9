"""Images, subtasks, splits and augmentation."""
