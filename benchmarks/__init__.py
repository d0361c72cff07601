"""What is measured, one file or folder per question."""
