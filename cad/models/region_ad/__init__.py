"""RegionAD: regions that the model closes itself."""
