"""What a model is, on each host: everything that training and translation need of one is in `protocol.ModelHost`."""
