"""One linear history for all rooms; the room stands in the file name."""
