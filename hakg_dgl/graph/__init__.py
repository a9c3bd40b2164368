"""From a data set to a heterograph, its packed views, and the same graph for DGL."""
