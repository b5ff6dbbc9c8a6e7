"""The pure core: specs, the table of ops, the tape. numpy and ml_dtypes only."""
