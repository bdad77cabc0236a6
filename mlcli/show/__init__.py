"""Pictures and charts: sheets, boxes, curves; one palette."""
