"""The checks on answers that people write."""

import pytest

from llada.eval.checks import CHECKS, contains, exact, number


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [(" 3\n", "3", True), ("3.", "3", False), ("Cat", "cat", False), ("a  b", "a b", False), ("", "", True)],
)
def test_exact_looks_past_blanks_around_and_nothing_else(answer, expected, right):
    assert exact(answer, expected) is right


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("It is 12.", "12", True),
        ("7 and 5 make 12", "#### 12", True),
        ("12 is 7 and 5", "12", False),  # the last one counts
        ("1,234,567", "1234567", True),
        ("1,2,3", "3", True),  # a list
        ("1,2345", "12345", False),  # a comma that parts no thousands parts two numbers
        ("1,2345", "2345", True),
        ("$12.50", "12.5", True),
        ("12.0", "12", True),
        ("-3", "3", False),
        ("-3", "-3.0", True),
        ("5-3", "3", True),  # a minus between two numbers
        ("x-3", "3", True),
        ("(2)-3", "3", True),
        ("twelve", "12", False),
        ("", "12", False),
        ("yes", "yes", False),  # without a number nothing is right
    ],
)
def test_number_compares_the_last_numbers_by_value(answer, expected, right):
    assert number(answer, expected) is right


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [("The answer is blue.", " blue ", True), ("Blue", "blue", False), ("blu", "blue", False), ("", "blue", False)],
)
def test_contains_finds_the_expected_text_anywhere(answer, expected, right):
    assert contains(answer, expected) is right


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_an_answer_with_a_number_is_right_by_itself_in_every_check(check):
    assert check("It takes 4 days: B", "It takes 4 days: B") is True
    assert check("It takes 4 days", "It takes 5 days") is False


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("6 * 7 = 42\n#### 42", "so 42 eggs\n#### 42", True),
        ("#### 1,234.0\nand 5 more", "#### 1234", True),
        ("first #### 3, then #### 4", "#### 3", False),
        (r"thus \boxed{12} of 13", "#### 12", True),
        (r"\boxed{\text{about } 1,000}", "1000", True),
        ("it is 7, no, 8.", "#### 8", True),
        ("#### -3", "#### 3", False),
        ("none", "#### 3", False),
        ("#### none of 3", "3", True),
        (r"\boxed{x = 5}", "#### 5.", True),
        ("#### **$1,000**", "#### 1000.00", True),
        ("it is 7+5=12", "#### 12", True),
        ("7+5=12", "#### 12", True),
    ],
)
def test_final_numbers_are_where_they_are_marked(answer, expected, right):
    assert CHECKS["final_number"](answer, expected) is right


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        (r"\boxed{\frac{1}{2}}", r"\boxed{\frac{3}{2}}", False),
        (r"\boxed{\frac{1}{2}}", r"so \boxed{ \frac {1} {2} }.", True),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", True),
        (r"thus \boxed{\frac{1}{\sqrt{2}}}", r"thus \boxed{\frac{3}{\sqrt{2}}}", False),
        (r"\boxed{2}", "1/2", False),
        ("#### 1/2", "#### 3/2", False),
        ("#### 1/2", r"$1 / 2$", False),  # with blanks it is a text, whose last number counts
        ("#### 1 / 2", "#### $1/2$.", True),
        (r"\boxed{(1,2)}", r"\boxed{(3,2)}", False),
        (r"\boxed{(1,2)}", r"\boxed{(1, 2)}", True),
        (r"\boxed{5\sqrt{2}}", r"\boxed{\sqrt{2}}", False),
        (r"\boxed{\sqrt{2}}", r"\boxed{2}", False),
        (r"\boxed{2\pi}", r"\boxed{2}", False),
        (r"\boxed{2x}", r"\boxed{2}", False),
        (r"\boxed{x-3}", r"\boxed{y-3}", False),
        (r"\boxed{x}", r"\boxed{x}", True),
        (r"\boxed{}", r"\boxed{}", False),
    ],
)
def test_a_marked_formula_is_right_as_a_whole_and_not_by_its_last_number(answer, expected, right):
    assert CHECKS["final_number"](answer, expected) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("B", True), ("(B)", True), ("B.", True), ("The answer is B.", True), ("The answer is (B), not (C).", True),
        ("Answer: B\n", True), ("A cat is no dog, so (B)", True), ("(A) is wrong. (B)", True), ("C", False),
        ("The answer is B because of A", True), ("b", False),
        ("Bees", False), ("", False), ("A B. no: C.", False),
    ],
)  # fmt: skip
def test_the_letter_of_a_choice_is_found(answer, right):
    assert CHECKS["letter"](answer, "B") is right
