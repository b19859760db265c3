"""What to say if a library of an extra is missing."""

NO_MATPLOTLIB = 'Pictures need matplotlib: pip install "hf-clear[report]"'
