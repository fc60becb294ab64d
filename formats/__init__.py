"""Names and bytes of other people's files, and of ours."""
