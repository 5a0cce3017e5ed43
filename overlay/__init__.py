"""Anonymous transport: onion paths, S-IDA cloves and the relays that carry them."""
