"""``amqtask dead``: the commands, what they work on, what somebody changes in a letter, and what is printed."""
