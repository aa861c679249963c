"""Why a model says what it says: which places of a picture or sound speak for a class, and which training examples are
nearest.
"""
