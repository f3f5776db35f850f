if __name__ != "paredown.modifiers":  # a second copy of the package would mean a second registry
    raise ImportError("import this package as 'paredown.modifiers', not as 'modifiers'")
