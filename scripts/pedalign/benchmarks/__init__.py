"""What `snakemake benchmark` measures."""
