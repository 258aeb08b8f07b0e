"""Labels of other tools into layouts that training reads."""
