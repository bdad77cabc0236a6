"""Models taken apart: what each layer computes, costs and sees."""
