"""What pages share: the frame, pictures, tables."""
