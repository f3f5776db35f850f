if __name__ != "paredown.framework":  # a second copy of the package would mean a second registry
    raise ImportError("import this package as 'paredown.framework', not as 'framework'")
