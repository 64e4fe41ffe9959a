"""What the loader's decoder and Pillow make of images, held against one another."""
