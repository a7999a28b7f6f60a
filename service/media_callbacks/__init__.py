"""media-callbacks: every media job you submit to Alibaba Cloud ends in exactly one typed, verified event."""
