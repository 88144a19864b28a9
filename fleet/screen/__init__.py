"""Screen a fleet: score each unit, name the cause, price the loss."""
