"""The publication's study on any data set: the model without each of its parts, and with one to four layers."""
