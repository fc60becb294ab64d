"""What makes a product, dropout or attention fast, and leaves padding out."""
