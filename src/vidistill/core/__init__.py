"""Words of the house: types, registry, errors, seeds, recipe. Nothing here knows a network."""
