"""Core ML: converts the recurrent cell to packages for Apple's systems, on any machine."""
