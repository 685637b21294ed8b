"""What is measured from values and derivatives: heads, LEE, consistency metrics."""
