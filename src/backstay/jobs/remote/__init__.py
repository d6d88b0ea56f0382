"""Workers in other languages: their registration, claims and answers. See `RemoteWorkers` in `service`."""
