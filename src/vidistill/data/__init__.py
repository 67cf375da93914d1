"""What is on disk becomes clips: manifests, dataset formats, decoding, prepared stores, views and batches."""
