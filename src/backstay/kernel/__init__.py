"""The ground every room stands on: settings, database, errors, clock, telemetry, HTTP habits.

It knows no room. A room may import anything here; nothing here imports a room.
"""
