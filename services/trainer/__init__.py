"""The trainer: owns runs, their events and models. It never trains; workers do."""
