if __name__ != "paredown.integrations":  # a second copy of the package would mean a second registry
    raise ImportError("import this package as 'paredown.integrations', not as 'integrations'")
