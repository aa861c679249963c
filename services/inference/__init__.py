"""The inference service: owns nothing but what it has loaded."""
