"""What came out of a sweep: collected from its folders, compared, shown, and the best one picked."""
