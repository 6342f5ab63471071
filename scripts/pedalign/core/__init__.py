"""What every stage needs: errors, files, provenance, settings, progress."""
