"""From a data set to a DGL heterograph and its packed views."""
