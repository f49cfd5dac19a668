"""The report of an evaluation on a grid."""
