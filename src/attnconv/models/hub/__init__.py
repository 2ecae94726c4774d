"""Networks kept as a folder of two files and a card, on this machine or on the Hugging Face Hub."""
