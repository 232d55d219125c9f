"""What is solved: the task, its scale and what is known of its spectrum before a method starts."""
