"""What is measured and how; never part of pass or fail tests."""
