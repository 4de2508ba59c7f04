"""From findings to a faster pipeline: order the fixes, try each, keep what helps, write it down."""
