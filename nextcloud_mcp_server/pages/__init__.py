"""What every page of the server is made of: escaped HTML, the frame of a page, its headers."""
