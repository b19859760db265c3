"""What a push to the Hub says (`model_card`) and what it leaves out (`private_files`)."""
