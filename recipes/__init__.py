if __name__ != "paredown.recipes":  # a second copy of the package would mean a second registry
    raise ImportError("import this package as 'paredown.recipes', not as 'recipes'")
